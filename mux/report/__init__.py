"""What runs achieved, from their results.json alone: tables, figures, a page, and the choice of a model to deploy."""
