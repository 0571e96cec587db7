"""Examine the directory of a run for damage. Nothing in it is changed."""

from jaxcnn.train.inspection.run_directory import Finding, check_run

__all__ = ["Finding", "check_run"]
