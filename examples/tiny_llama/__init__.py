"""Build, train and score the small Llama 3 model that edgellama uses by default."""
