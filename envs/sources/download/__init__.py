"""Downloads that can be resumed, from servers that are not trusted."""
