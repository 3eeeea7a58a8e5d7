"""From a method to images: one pure chain, what is to be made, batches over devices, and the folders they are written to.

Which paper it is, nothing here asks; nor where weights come from.
"""
