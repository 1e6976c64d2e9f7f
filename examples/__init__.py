"""Hold the models and programs that show edgellama at work."""
