from cffconvert import Citation
from conftest import ROOT


def test_the_citation_file_is_valid_against_its_schema():
    Citation((ROOT / "CITATION.cff").read_text(encoding="utf-8")).validate()
