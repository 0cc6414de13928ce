"""Many hospitals on one machine. The only package that may import both sides."""
