"""Photographs and titles of dishes: UPMC Food-101."""
