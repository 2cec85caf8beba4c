"""Readers for audio, images and untrusted pickles, which only these tasks need."""
