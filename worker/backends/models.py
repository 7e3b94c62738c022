"""The FHIR models, by version: what may be written is checked with them, and a job may ask for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from worker import exact_json

# The top level of fhir.resources is R5. Its R4B models read R4: 100 % of Synthea's R4 resources, R5's read 26 %.
_PACKAGES = {
    "R4": "fhir.resources.R4B",
    "R4B": "fhir.resources.R4B",
    "R5": "fhir.resources",
    "STU3": "fhir.resources.STU3",
}
# What R4 has and R4B has not, or otherwise (https://hl7.org/fhir/R4B/history.html): no model there fits it.
_R4_ALONE = frozenset(
    {"EffectEvidenceSynthesis", "RiskEvidenceSynthesis", "Evidence", "EvidenceVariable", "MedicinalProduct"}
    | {"MedicinalProductAuthorization", "MedicinalProductContraindication", "MedicinalProductIndication"}
    | {"MedicinalProductIngredient", "MedicinalProductInteraction", "MedicinalProductManufactured"}
    | {"MedicinalProductPackaged", "MedicinalProductPharmaceutical", "MedicinalProductUndesirableEffect"}
    | {"SubstanceNucleicAcid", "SubstancePolymer", "SubstanceProtein", "SubstanceReferenceInformation"}
    | {"SubstanceSourceMaterial", "SubstanceSpecification"}
)
# Pydantic builds a model's validator at first use, which is not made for two threads at once.
_building = threading.Lock()


def type_name(model: type[Any]) -> str:
    """The resource type that a model class stands for; raises ``TypeError`` for a class that is no FHIR model."""
    named = getattr(model, "get_resource_type", None)
    if named is None:
        raise TypeError(f"{model.__name__} is not a FHIR resource type nor a model of one")
    return str(named())


def model_class(version: str, type_: str) -> type[BaseModel] | None:
    """The model of a resource type in a FHIR version; None if the version has no such type."""
    with _building:
        try:
            model: Any = import_module(_PACKAGES[version]).get_fhir_model_class(type_)
        except ValueError:
            return None
    return model if model.has_resource_base() else None


def problems(version: str, resource: Mapping[str, Any]) -> list[str]:
    """What is wrong with a resource, as ``path: message``, without its values; empty if it is valid.

    The few types of R4 that have no model are left to the server.
    """
    type_ = str(resource.get("resourceType", ""))
    if version == "R4" and type_ in _R4_ALONE:
        return []
    model = model_class(version, type_)
    if model is None:
        return [f"resourceType: {type_!r} is not a resource type of FHIR {version}"]
    try:
        model.model_validate(resource)
    except ValidationError as error:
        return _texts(error)
    return []


def parse(model: type[Any], resource: Mapping[str, Any]) -> Any:
    """The resource as a model; raises ``ValueError`` with the first problem, without values."""
    try:
        return model.model_validate(resource)
    except ValidationError as error:
        raise ValueError(_texts(error)[0]) from None


def better_import(version: str, model: type[Any]) -> str:
    """Where the models of a FHIR version are imported from; empty if this one is from there."""
    package = _PACKAGES[version]
    return "" if model_class(version, type_name(model)) in model.__mro__ else package


def as_dict(resource: Any) -> Any:
    """A model as the dict that would be its JSON; anything else as it is."""
    return exact_json.of_model(resource) if isinstance(resource, BaseModel) else resource


def _texts(error: ValidationError) -> list[str]:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [f"{'.'.join(map(str, problem['loc'])) or 'resource'}: {problem['msg']}" for problem in found]
