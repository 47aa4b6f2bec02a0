"""The same job over many scenes: what is done is kept, and nothing is done twice."""
