"""Verbs for trained runs, and the flags that verbs share."""
