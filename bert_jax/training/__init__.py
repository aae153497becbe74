"""Objective, optimizer and step; checkpoints and the loop around them."""
