"""A real player of the ABR task: dash.js in Chromium, fed over HTTP by a server that keeps to a recorded trace."""
