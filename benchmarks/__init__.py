"""vitlite beside other libraries, timed side by side: ``python -m benchmarks.NAME``, or ``make benchmark`` for all."""
