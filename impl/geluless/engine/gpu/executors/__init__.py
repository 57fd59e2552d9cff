"""Three executors for one program: Triton's interpreter, the compiled PTX executed on the CPU, and a CUDA device."""
