"""Check a run directory for damaged files, without changing any file."""

from jaxcnn.train.inspection.run_directory import Finding, check_run

__all__ = ["Finding", "check_run"]
