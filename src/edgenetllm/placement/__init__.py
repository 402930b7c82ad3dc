"""Where a decision is made: at the edge, in the cloud or between them, and what the link costs."""
