"""Where metrics and figures go while a run trains."""
