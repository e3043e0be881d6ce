"""Looking at chunks: neuroglancer, a page for the browser, screenshots, pictures."""
