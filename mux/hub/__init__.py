"""Models from elsewhere and for elsewhere: import, warm start, export."""
