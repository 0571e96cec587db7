"""Measure time, memory, collectives, compile time and peak performance of one program, process or machine."""
