"""The APIs that the endpoint speaks, a small module each: how a request is read, and how an answer is worded."""
