"""What is trained, matched and scored, and on which labels."""
