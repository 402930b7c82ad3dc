"""Congestion control as a task of EdgeNetLLM: how fast to send over a link whose bandwidth nobody announces."""
