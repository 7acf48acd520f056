"""Trust in records: who signed one, which keys are believed, and the chain that no record leaves unnoticed."""
