"""Reading, checking, preprocessing and sampling medical images."""
