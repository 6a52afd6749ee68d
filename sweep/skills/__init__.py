"""What models can do.

Programs that show which depth a task needs, judges and grades of generated text.
"""
