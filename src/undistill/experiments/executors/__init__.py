"""Who computes the cells: this machine's processes, Ray, Slurm. One file each."""

from undistill.experiments.executors.base import EXECUTORS, Executor, Job, Lost, Workers, executor_of, run_jobs

__all__ = ["EXECUTORS", "Executor", "Job", "Lost", "Workers", "executor_of", "run_jobs"]
