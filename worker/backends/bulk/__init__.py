"""Bulk data: whole sets of resources, made by the server in its own time (HL7 FHIR Bulk Data Access IG 2.0.0).

``question`` is what is asked for, ``manifest`` what the server says that it has made, ``lines`` and ``progress`` what
is kept of it on disk, and ``export`` takes it from one to the other.
"""
