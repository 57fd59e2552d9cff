"""The gate: what a change costs, judged on one machine from both revisions side by side.

    revisions       two source trees, built with the same compiler into folders of their own
    worker          one revision's process: launch.py runs it, probe.py weighs it
    timing          both revisions' workloads, sample by sample in turns, in several pairs of fresh processes
    thresholds      what counts as slower, per benchmark, from recorded noise
    judgement       PASS, REGRESSED, IMPROVED, UNDECIDED, MISSING; a regression needs two runs that agree
    latency         one run, and a second one of what looks slower
    noise           the tree against itself, from which the thresholds come
    self_test       the gate itself, judged by what it finds of faults that fault_injection builds into the head
    machine_code    instructions, vector spills and floats of every compiled CPU kernel, from the disassembly
    gpu_code        the same of the GPU kernels, from the codegen records
    footprint       sizes of artifact and wheel, what an import loads and how long it takes
    record          pytest-benchmark's JSON, written and read, and the history that it makes
    summary         Markdown for a pull request, and the plot of the history

`python -m ci.gate --help`; `nox -s gate -- --base REV`.
"""
