"""A worker: one pinned process, one event loop, its own slice of the load. It sees a WorkerPlan and nothing else."""
