"""Several devices or machines at one cohort."""
