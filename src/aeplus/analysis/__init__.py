"""Looking at conflict: the report before a run, figures, one record per edit, and case studies."""
