"""The paper's experiments: functions from numbers to run records."""
