"""EdgeNetLLM: cloud-edge adaptation of large language models for mobile networking."""
