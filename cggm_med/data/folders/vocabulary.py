"""The words of clinical imaging: which sequence, map or label a name or description shows, in several languages.

A name is a part of a file's name, a BIDS suffix with its entities, a channel's name or a DICOM series description.
English, German, French, Spanish, Italian, Portuguese and Dutch are read, and the commonest words of Polish, Czech,
Scandinavian languages, Finnish, Turkish, Russian, Japanese and Chinese; letter case, accents and separators do not
count.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping

from cggm_med.data.declaration import NORMALISATIONS, Kind, Modality

UNKNOWN_SEQUENCE = "unknown"
# Written without spaces between words, so they are found wherever they stand.
_UNSPACED: Mapping[str, str] = {
    **{"平扫": "without contrast", "增强": "with contrast", "弥散": "diffusion", "灌注": "perfusion"},
    **{"単純": "without contrast", "造影なし": "without contrast", "造影前": "without contrast"},
    **{"造影後": "with contrast", "造影": "with contrast"},
    **{"定位": "localizer", "横断": "ax", "轴位": "ax", "矢状": "sag", "冠状": "cor"},
    **{"标注": "annotation", "标签": "label", "掩膜": "mask", "掩码": "mask", "分割": "segmentation", "金标准": "gold"},
    **{"病灶": "lesion", "病变": "lesion", "肿瘤": "tumor", "图像": "image", "影像": "image", "原始": "raw"},
    **{"训练": "training", "验证": "validation", "测试": "test", "基线": "baseline", "随访": "followup"},
}
# How an image was acquired or is stored; says neither whose it is nor what it shows.
_TECHNIQUE = (
    "tse fse se gre tra trans transversal ax axial sag sagittal cor coronal koronal iso mm fs fatsat fat sat dark "
    "fluid space vista cube tirm irfse spair spir dual inphase outphase in out phase mr mri mrt irm rm image "
    "images img scan scans vol volume volumes series serie data nifti nii nrrd mha hr lr highres lowres native "
    "rigid brain head final the of with without mit ohne sans avec senza con sin vor nach pre post avant apres na "
    "voor met zonder weighted w map maps standard std mask label seg tr ts frame 2d 3d 4d anat func perf dwi pet "
    "fmap xnat "
)
TECHNIQUES = frozenset(_TECHNIQUE.split())
# The files of a cohort say the same few words thousands of times.
_remembered = functools.lru_cache(maxsize=100_000)


@_remembered
def spelled(name: str) -> str:
    """A name as the patterns here read it: lower-case words without accents, apart by single spaces.

    It tells what is meant, never who: two people's names may be spelled alike.

    Example:
        >>> spelled("T1w_Lésion-ManualSegmentation"), spelled("T1 w/o KM (+C)"), spelled("T1增强"), spelled("T1 KM-")
        ('t1w lesion manual segmentation', 't1 without km +c', 't1 with contrast', 't1 without km')
    """
    text = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = re.sub(r"^sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?_", "", text)  # BIDS: who and when, "sub" and "post" included
    text = re.sub(r"(?<=[a-z0-9][a-z])(?=[A-Z])", " ", text)
    text = re.sub(r"\b(CT|PET|MR|T1w?|T2w?|FLAIR|ADC)(res|reg|norm|bias|pp)\b", r"\1 \2", text, flags=re.IGNORECASE)
    text = re.sub("|".join(_UNSPACED), lambda word: f" {_UNSPACED[word[0]]} ", text).lower()
    for pattern, words in _SIGNS.items():
        text = re.sub(pattern, words, text)
    return re.sub(r"([^\w+*]|_)+", " ", text).strip()


@_remembered
def shown_by(name: str) -> Modality | None:
    """What images of this name show; None where the name does not tell, or tells that they are none to learn from.

    Example:
        >>> [shown_by(name).shows for name in ("T1 tra ohne KM", "Ax T1 GADO", "ax flair T2", "ce-gadolinium T1w")]
        ['t1', 't1ce', 'flair', 't1ce']
        >>> shown_by("CTres").kind, shown_by("adc").normalisation, shown_by("Localizer")
        ('ct', 'keep_scale', None)
    """
    sequence = sequence_of(name)
    if sequence == UNKNOWN_SEQUENCE and re.fullmatch(rf"((\w+) )?{_AGENT}", without_processing(name)):
        sequence = sequence_of(f"T1 {name}")  # "GADO" and "SANS GADO" beside "T2"
    kind = _KINDS.get(sequence)
    return None if kind is None else Modality(kind, NORMALISATIONS[kind], _SHOWS.get(sequence, sequence))


def sequence_of(name: str, contrast_agent: bool = False) -> str:
    """The sequence, map or derived image that a name tells, in the field's terms; ``unknown`` if it tells none or two.

    A T1-weighted FLAIR is a T1. A T1 is taken to be enhanced if the name says so, or if it says nothing and a contrast
    agent is known to have been given.

    Example:
        >>> [sequence_of(text) for text in ("t2_tirm_tra_dark-fluid", "T1 sans injection", "CT_CBF", "SUB KM-nativ")]
        ['flair', 't1', 'cbf', 'subtraction']
    """
    whole = spelled(name)
    text = re.sub(_TARGET, " ", whole)
    if not without_processing(text):  # "reg_T1" is a T1 that was registered
        text = whole
    for sequence, pattern in _BEFORE_WEIGHTING.items():
        if re.search(pattern, text):
            return sequence
    t1, t2 = (re.search(rf"\b([23]d|ax|sag|cor|tra|e|[rwsu]{{1,3}}|hr|wm|ce?|t[12])?t{k}(?!\d)", text) for k in (1, 2))
    if t1 and t2:
        return UNKNOWN_SEQUENCE
    if t1 or re.search(r"mp ?rage|\bbravo\b|spgr\b|\b(vibe|lava|e?thrive|unit1|ir ?fspgr|c t1)\b", text):
        return _t1(text, contrast_agent)
    if re.search(r"flair|dark ?fluid|\bda ?fl\b|\b(t2f|fla)\b", text):
        return "flair"
    if re.search(r"\b(stir|tirm)\b", text):
        return "stir"
    if t2 and re.search(r"\bpd\b", text):
        return UNKNOWN_SEQUENCE  # two echoes
    if t2:
        return "t2star" if re.search(r"\b(gre|ffe|fl[23]d|hemo)\b", text) else "t2"
    found = [sequence for sequence, pattern in _AFTER_WEIGHTING.items() if re.search(pattern, text)]
    return found[0] if len(found) == 1 else UNKNOWN_SEQUENCE


@_remembered
def names_modality(word: str) -> bool:
    """Whether a word tells what an image shows, or at least that it is an MRI.

    Example:
        >>> names_modality("ct"), names_modality("MR"), names_modality("seg")
        (True, True, False)
    """
    return shown_by(word) is not None or tells_mri(word)


def tells_mri(name: str) -> bool:
    """Whether a name tells that an image is an MRI, of whatever sequence.

    Example:
        >>> tells_mri("mr image"), tells_mri("IRM"), tells_mri("CT")
        (True, True, False)
    """
    return bool(re.search(r"\b(mri?|mrt|irm)\b", spelled(name)))


def tells_two(name: str) -> bool:
    """Whether the words of a name, each for itself, tell images that are not one: hardly an image of either.

    Example:
        >>> [tells_two(name) for name in ("Leze_FLAIR_DWI2", "T2 FLAIR", "ADC_DWI", "T1 Gd", "PET-CT")]
        [True, False, False, False, True]
    """
    told = {shown.shows for word in spelled(name).split() if (shown := shown_by(word)) is not None}
    alike = (
        {"t1", "t1ce"},
        {"t2", "flair"},
        {"dwi", "adc", "b0", "dti"},
        {"t2", "t2star"},
        {"ct", "cbf", "cbv", "mtt", "tmax"},
    )
    return len(told) > 1 and not any(told <= of for of in alike)


def told_by_rare_word(name: str) -> bool:
    """Whether a contrast agent is told by nothing but an abbreviation that means something else in other places.

    Example:
        >>> [told_by_rare_word(name) for name in ("T1WKS", "T1 KM", "T2 cm")]
        [True, False, False]
    """
    text = spelled(name)
    without = re.sub(r"\b(t1w?)?(ks|kv|cm|pdc)\b", "t1", text)
    return without != text and sequence_of(name) == "t1ce" and sequence_of(without) == "t1"


@_remembered
def tells_label(name: str) -> bool:
    """Whether a name says that a volume was drawn or computed as a label: of whatever, by whomever.

    Example:
        >>> [tells_label(name) for name in ("Läsion", "consensus_gt", "Brain.XX.O.OT", "t1ce", "Maske Tumor")]
        [True, True, True, False, True]
    """
    return bool(re.search(_LABEL, spelled(name)))


def tells_plane(name: str) -> bool:
    """Whether a name tells the plane of an image and nothing else.

    Example:
        >>> tells_plane("sag"), tells_plane("coronal"), tells_plane("sag t2")
        (True, True, False)
    """
    return bool(re.fullmatch(r"ax(ial\w*)?|tra(ns\w*)?|sag(it\w*)?|[ck]or(on\w*)?", spelled(name)))


def not_the_target(name: str) -> str:
    """Why a label of this name is not what a network shall learn, such as a brain mask; empty if nothing says so.

    Example:
        >>> not_the_target("label-brain_mask"), not_the_target("tumor_segmentation")
        ('brain mask, not the target', '')
    """
    text = spelled(name)
    return next((reason for reason, pattern in _NOT_THE_TARGET.items() if re.search(pattern, text)), "")


@_remembered
def never_an_image(name: str) -> str:
    """Why a volume of this name is none to learn from, such as a localizer; empty if nothing says so.

    Example:
        >>> never_an_image("Localizer"), never_an_image("T1_to_MNI_warp"), never_an_image("T1")
        ('localizer', 'transformation, no image', '')
    """
    sequence = sequence_of(name)
    if sequence in _REASONS:
        return _REASONS[sequence]
    transformed = re.search(r"\b(x?fm|warp\w*|deformation\w*|displacement\w*|jacobian)\b", spelled(name))
    return "transformation, no image" if transformed else ""


@_remembered
def processing_of(name: str) -> str:
    """How a copy of an image was made, in the words of its name: ``raw``, ``processed`` or nothing that is told.

    Example:
        >>> [processing_of(name) for name in ("Raw_Data", "FLAIR_preprocessed", "T1_bias", "orig", "T1")]
        ['raw', 'processed', 'processed', 'raw', '']
    """
    text = spelled(name)
    if re.search(_PROCESSED, text):
        return "processed"
    return "raw" if re.search(_RAW, text) else ""


@_remembered
def without_processing(name: str) -> str:
    """A spelled name without the words that tell how a copy was made, such as ``flair`` for ``FLAIR_preprocessed``."""
    return re.sub(r" +", " ", re.sub(rf"{_PROCESSED}|{_RAW}", " ", spelled(name))).strip()


_AGENT = (
    r"(contrast\w*|kontras[ct]\w*|контраст\w*|gd\w?|gad\w*|gado|km|ks|kv|k ?l|m ?d ?c|pdc|civ|cm|ce gad\w*|ce|teho\w*"
    r"|(produit|medio|mezzo|meio|liquido|srodk\w*) (de |di )?[ck]ontras\w*"
    # Brand names; those that begin with "gad" are covered above.
    r"|dota(rem|graf|vision)|pro ?hance|omni ?scan|magnevist|multi ?hance|clari ?scan|vueway|elucirem|artirem"
    r"|opti ?mark|primovist|eovist|pixxoscan|cyclolux)"
)
_INJECTION = r"(inj\w*|iniez\w*|iny\w*|podani\w*|aplik\w*|i ?v)"
_LINK = r"( (a|l|le|la|el|de|del|di|du|do|da|den|der|dem|the|des))*"
_LACKING = r"(without|ohne|sans|ss|senza|sin|sem|zonder|utan|uden|uten|bez|без|ilman|wo)"
_EARLIER = r"(pre|pra|vor|avant|avt|voor|antes|previo|prima|before|przed|pred|innan|fore|før|ennen|до)"
_HAVING = r"(with|mit|avec|con|com|met|med|z|ze|со?|w)"
_LATER = r"(post|after|apres|dopo|despues|tras|depois|apos|pos|nach|na|efter|etter|po|после)"
_JOINT = r"( (and|und|et|y|e|en|i|och|og|ja|ve|a|и))? "
_WITHOUT = (
    rf"\b({_LACKING}|{_EARLIER}|non?|keine?){_LINK} ?({_INJECTION} )?({_AGENT}|{_INJECTION}|c|k)\b"
    rf"|\b{_AGENT} (frei|free|libre|oncesi)\b|\b[ck]ontrast ?(s[iı]z|los|frei|free|fri|vrij)\b"
    r"|\b(pre|pra|without|nati[fv]\w*|натив\w*|natyw\w*|blanco|basale?|unenhanced|non ?enhanced|precontrast\w*)\b"
    rf"|\b(prekm|pregd|simple|diretta|plain|non? ?con|precon|oncesi|{_LACKING}$)\b|\bt1w?(nc?e?|pre\w*)\b"
)
_WITH = (
    rf"\+ ?({_AGENT}|c|ce|k)\b|\b(c|iv|{_AGENT}) ?\+|\bce?t1|\bc t1\b|\b{_HAVING} c\b|\bpo k\b"
    r"|t1w?(c|ce|gd|gad\w*|km|ks|post\w*|contrast\w*|kontrast\w*|enh\w*|inj\w*|mdc|cm)\b"
    rf"|\b(post(?!erior)\w*|poscontrast\w*|{_AGENT}|{_INJECTION})\b|\b(after|apres|dopo|despues|nach)$"
    r"|\b(enhanced|iniett\w*|rehauss\w*)\b"
)
_BOTH = (
    rf"\b({_HAVING}{_JOINT}{_LACKING}|{_LACKING}{_JOINT}{_HAVING}|{_EARLIER}{_JOINT}{_LATER}|{_LATER}{_JOINT}{_EARLIER}"
    r"|wwo|with and without)\b"
)
# After an operation or a therapy is not after a contrast agent.
_TREATMENT = (
    rf"\b({_EARLIER}|{_LATER}) ?(op\w*|treat\w*|\w*therap\w*|rt\w?|surg\w*|chir\w*|\w*radi\w*|\w*strahl\w*|chemo\w*"
    r"|biops\w*|proc\w*|rese[ck]\w*|[ck]raniot\w*|stroke|trauma\w*|ictus|shunt\w*|interv\w*)\b"
)
# "s" is with in Czech, and without in Spanish and Italian.
_DOUBTFUL = rf"\b(s {_AGENT}\b|with$)"
_AFTER_SOMETHING = (
    rf"\b(after|apres|dopo|despues|tras|nach) (?!({_AGENT}|{_INJECTION}|{'|'.join(sorted(TECHNIQUES))}"
    r"|a|l|le|la|el|de|del|di|der|dem|the)\b)[a-z]{2,}"
)
# What separators would hide: plus and minus, and abbreviations with a slash, in lower case.
_BEFORE_SIGN, _AFTER_SIGN = r"(?<![^\s_(\[])", r"(?![^\s_)\],;.:])"
_SIGNS: Mapping[str, str] = {
    r"\+ ?/? ?-|±|\bw ?/ ?w/?o\b|\bc/s\b": " with and without ",
    rf"{_BEFORE_SIGN}- (?=({_AGENT}|c){_AFTER_SIGN})": " with and without ",  # minus, or a dash: nobody knows
    rf"{_BEFORE_SIGN}-(?=({_AGENT}|c)\)?{_AFTER_SIGN})": " without ",
    rf"\b({_AGENT}|c|iv) ?(-|\(-\)){_AFTER_SIGN}": r" without \1 ",
    rf"\b({_AGENT}|c|iv) ?\(\+\)": r"\1+",
    r"\b(w/o|w-o\b|s/)": " without ",
    r"\b(w|c)/": " with ",
}
# What an image was registered to is not what it shows: "FLAIR_reg_T1", "T2 to T1", "space-T1w"; but "2_T1" is a series.
_TARGET = (
    r"\b((co)?reg\w*|aligned|rigid|affine|resampled|res|to|in|on|onto|(?<=[a-z] )2|auf|zu|space)"
    r"( (to|2|in|on|onto|with))? (t1\w*|t2\w*|flair\w*|adc|dwi|pet|ct|mni\w*)( space)?\b(?=.)|"
    r"\b((co)?reg\w*|aligned|to|(?<=[a-z] )2|in|onto|space)( (to|2|in|on))?"
    r" (t1\w*|t2\w*|flair\w*|adc|dwi|mni\w*)( space)?$"
)

# Told by one word, whatever else the name says; the first that matches.
_BEFORE_WEIGHTING: Mapping[str, str] = {
    "localiser": r"\bloc(a|ali[sz]\w*)?s?\b|lokali[sz]\w*|scout|survey|topogram\w*|scanogram|reperage|locali[sz]\w*"
    r"|smart ?brain|(?<!ct )\bplan ?(scan|ning)(?! ?ct)|\bcentra(tura|ggio)\b|\bpilot\b|\b3 ?pl\b",
    "calibration": r"\bfield ?map\w*|\bfmap\b|\bb[01] ?(\w )?map\w*|\bshim\w*|\bref ?scan|\bcalib\w*"
    r"|\bcoil ?(sens|surv)\w*|\bpre ?scan(?! ?norm)|\b(sense|asset|arc|grappa|caipi\w*) ?(ref|cal)\w*|\bnoise ?scan",
    "spectroscopy": r"\b(mrs|csi|svs|spectro\w*|spektro\w*)\b",
    "subtraction": r"\b(sub(?! ?\d)|subs|subtr(?! ?mean)\w*|soustract\w*|sustracc\w*|sottra\w*|differenz\w*)\b",
    "projection": r"\b(mip|minip|mnip|reformat\w*|rfmt)\b",
    "lge": r"\b(lge(c?mri?)?|psir|mde|(late|delayed|spat\w*) (gad\w*|enh\w*))\b",
    "cbf": r"\br?cbf\b",
    "cbv": r"\br?cbv\b",
    "mtt": r"\bmtt\b",
    "tmax": r"\bt ?max\b",
    "ttp": r"\bttp\b",
    "ktrans": r"\bktrans\b",
    "asl": r"\bp?c?asl\b",
    "perfusion": r"\b(\dd)?(perf\w*|pwi|dsc|dce|ctp|dyn(am\w*)?)\b",
    "qsm": r"\b(qsm|chimap)\b",
    "mtr": r"\b(mtr|mtsat)(map)?\b",
    "mp2rage": r"mp2rage",
    "quantitative map": r"\b[tr][12] ?(rho|star|\*)?\w?(?<!w) ?map|\b[rt]1 ?rho|\b(maps?|mapping)\b|\bpdmap\b"
    r"|\b(sh)?molli\b",
    "dir": r"\bdir\b|\bdouble inversion",
    "fa": r"\bfa\b",
    "md": r"\bmd\b",
    "adc": r"\b([de]|[rwsu]{1,3})?adc\w*\b",
    "dti": r"\b(dti|tensor)\b",
    "dwi": r"\b([rwsu]{0,3}dwi\w*|isodwi|diff?us\w*|diff\w*|trace\w*|hbv|b ?\d{3,4}|high b)\b",
    "b0": r"\bb ?0+\b",
    "functional": r"\b(bold|f ?mri|resting|rs ?fmri)\b",
    "swi": r"\b(swi|swan|venobold)\b",
    "t2star": r"\bt2 star|\bt2starw?\b|\bt2w? ?\*",
    "angiography": r"\b(mra|mrv|tof|angio(?!\w*gramm?\w* ct)\w*|venogr\w*)\b",
}
# Told by a word only where the name tells no weighting, and only if no other of these is told as well.
_AFTER_WEIGHTING: Mapping[str, str] = {
    "pd": r"\b(pd(w|fs)?|dp|prot\w* ?dens\w*|densite\w* ?(de )?proton\w*|protonen\w*)\b",
    "t1 in phase": r"\bin ?phase\b",
    "t1 opposed phase": r"\b(out( of)?|opp(osed)?) ?phase\b",
    "bssfp": r"\b(c0|b?ssfp|cine|tru ?fi\w*|fiesta|b ?[ft]fe|balanced)\b",
    "lge": r"^de$",
    "mt": r"\bmt ?([01]|w|on|off)\b",
    "ct": r"\b(ct|ctres|ce ?ct|nc ?ct|ctce|cta|cbct|ldct|tdm|computed tomo\w*|computertomo\w*)\b|^tc$",
    "pet": r"\b(pet|pt(?! ?\d)|suv\w*|fdg|psma|fmiso|dota\w*|tep)\b",
}
_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(
        (
            "flair",
            "t1",
            "t1ce",
            "t1 in phase",
            "t1 opposed phase",
            "t2",
            "t2star",
            "stir",
            "pd",
            "swi",
            "dwi",
            "b0",
            "dti",
            "mt",
        ),
        "mri",
    ),
    **dict.fromkeys(("lge", "bssfp", "angiography", "perfusion", "functional", "mp2rage"), "mri"),
    **dict.fromkeys(("adc", "fa", "md", "cbf", "cbv", "mtt", "tmax", "ttp", "ktrans", "asl", "qsm", "mtr"), "map"),
    "quantitative map": "map",
    "ct": "ct",
    "pet": "pet",
}
_SHOWS = {"mp2rage": "t1", "quantitative map": "map"}
_REASONS = {
    "localiser": "localizer",
    "calibration": "field map or calibration",
    "subtraction": "difference of two images",
    "projection": "projection or reformat of another image",
    "spectroscopy": "spectroscopy, no image",
}
_LABEL = (
    r"\b((?!msseg)\w*segs?|seg\d+|d?segm|(\w+)?segment\w*|probseg|\w*mask\w*|msk\w*|masque\w*|mascara\w*|masch\w*"
    r"|gts?\d?|gtv\w*|ctv|ptv|roi\w*|voi|(?!un)\w*label\w*|lbl|annot\w*|contour\w*|kontur\w*|delineat\w*|manual|\w*truth|gold"
    r"|lesions?\d{0,2}|lesione?s?|lesioni|laesion\w*|laesies?|lasion\w*|letsels?|tumou?r\w*|tumeur|tumore|infar\w*|wmh\w*"
    r"|ot|ot ?multi ?class|consens\w*|konsens\w*|rater\w*|reader\w*|observer\w*|annotator\w*|expert\w*)\b|^targets?$"
)
_NOT_THE_TARGET = {
    "brain mask, not the target": r"\b(brain|bet|skull|head|kopf|hirn\w*|gehirn\w*|cerveau|cerebro|cervello|hersenen) ?"
    r"((extract\w*|tissue|only|stripp\w*|t[12]\w*|flair|final|native|space|mni\w*) )?"
    r"(mask\w*|seg\w*|masque|parenchyma\w*)|\b(mask\w*|masque|seg\w*) (du |del |des )?(brain|cerveau|cerebro)"
    r"|\b(parenchyma|skull ?strip\w*)\b|\b(hirn|brain)mas\w*|^(brain|bet)$",
    "body or organ mask, not the target": r"\b(body|foreground|fg|fov|valid|organ) ?mask\w*",
    "tissue, not the target": r"\b(gm|wm|csf|cord|sc) ?seg\b|\bprobseg\b|\baseg\b|\baparc\w*|\bcsf\b",
}
_PROCESSED = (
    r"\b(pre ?proc\w*|processed|pp|bias\w*|bfc|n4\w*|corr(ected)?|norm\w*|reg(istered)?|coreg\w*|resampled|res|bet"
    r"|brain|skull ?strip\w*|ss|stripped|denois\w*|defaced|z ?score\w*|subtr( mean( div( std)?)?)?|std)\b"
)
_RAW = (
    r"\b(raw|unstripped|with skull|orig\w*|roh\w*|brut\w*|native space|unprocessed|uncorrected|source ?data)( data)?\b"
)


def _t1(text: str, contrast_agent: bool) -> str:
    text = re.sub(_TREATMENT, " ", text)
    rest, without = re.subn(_WITHOUT, " ", text)
    enhanced = bool(re.search(_WITH, rest))
    if (without and enhanced) or re.search(rf"{_BOTH}|{_DOUBTFUL}", text):
        return UNKNOWN_SEQUENCE
    if not (without or enhanced) and re.search(_AFTER_SOMETHING, text):
        return UNKNOWN_SEQUENCE
    if enhanced or (contrast_agent and not without):
        return "t1ce"
    phase = re.search(r"\b(in|out|opp(osed)?) ?(of )?phase\b", text)
    return "t1" if phase is None else "t1 in phase" if phase[1] == "in" and phase[3] is None else "t1 opposed phase"
