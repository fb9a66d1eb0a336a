"""Loops in C++, written for a rule and compiled when it is first used."""
