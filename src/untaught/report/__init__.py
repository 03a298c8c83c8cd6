"""Tables, curves and the page, drawn from records alone."""
