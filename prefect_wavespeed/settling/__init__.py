"""Finishing what is open in an output, whichever run submitted it, without submitting anything."""
