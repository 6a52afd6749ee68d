"""What models can do: programs that show which depth a task needs, judges and grades of text."""
