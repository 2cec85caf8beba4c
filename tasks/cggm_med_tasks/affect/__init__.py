"""Emotion and sentiment from speech: CMU-MOSI, CMU-MOSEI, IEMOCAP, MELD."""
