"""Reading what only these tasks read: audio, images and pickles from strangers."""
