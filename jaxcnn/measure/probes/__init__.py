"""What is read off one program, process or machine: time, memory, compiled code, collectives, peaks."""
