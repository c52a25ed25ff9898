"""The server's own metrics, sampled while a run goes on, in a process that is no worker."""
