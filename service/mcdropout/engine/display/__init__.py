"""Display: engines and predictions as people read them, in a terminal and in a notebook."""
