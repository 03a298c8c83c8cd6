"""Read a study file, plan it as steps, run or resume them, keep records."""
