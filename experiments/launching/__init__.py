"""What runs the jobs of an experiment: folders.py says what they leave behind, the executors start them."""
