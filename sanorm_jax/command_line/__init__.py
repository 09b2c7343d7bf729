"""The verbs that use a trained run, and the flags that verbs share."""
