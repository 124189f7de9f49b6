"""A pipeline's Glue catalogue, as its template has it, wherever a Glue client leads."""

from typing import Any

from tests.conftest import logical_name, resources_of


def resolved(value: Any, names: dict[str, str]) -> Any:
    """A template's value, as CloudFormation would put it; `names` by what its construct is called."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return separator.join(resolved(part, names) for part in parts)
        case {"Ref": name}:
            return names.get(logical_name(name), name)
        case dict():
            return {key: resolved(one, names) for key, one in value.items()}
        case list():
            return [resolved(one, names) for one in value]
    return value


def create_catalog(glue: Any, template: dict[str, Any], bucket: str) -> str:
    """Make the database and its tables, whose objects lie in `bucket`; the database's name."""
    (database,) = resources_of(template, "AWS::Glue::Database").values()
    glue.create_database(DatabaseInput=database["DatabaseInput"])
    for table in resources_of(template, "AWS::Glue::Table").values():
        of_bucket = resolved(table["TableInput"], {"StorageData": bucket})
        glue.create_table(DatabaseName=table["DatabaseName"], TableInput=of_bucket)
    name: str = database["DatabaseInput"]["Name"]
    return name
