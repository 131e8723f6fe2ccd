"""Decides every property of every design: pairs in processes of their own, repairs, results."""
