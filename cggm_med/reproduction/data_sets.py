"""What the papers' data sets are, where they come from, and how ``--data`` has to lie on disk."""

from __future__ import annotations

from cggm_med.reproduction.paper_table import DataSet

FOOD101 = DataSet(
    "UPMC Food-101",
    "https://visiir.isir.upmc.fr, see there for its licence; pip install 'cggm-med[food101]'",
    (
        "images/{train,test}/{label}/{image}.jpg",
        "texts/train_titles.csv, texts/test_titles.csv   image, text, label",
        "or train.json, test.json   lists of id, label, text_tokens, img_path",
    ),
)
MOSI = DataSet(
    "CMU-MOSI",
    "http://multicomp.cs.cmu.edu/resources/, for research; the pickles come with repositories of sentiment analysis",
    ("mosi.pkl   train, valid, test: text, audio, vision (N, T, D), labels (N, 1, 1), id (N,)",),
)
IEMOCAP = DataSet(
    "IEMOCAP with the features of MMIN",
    "https://sail.usc.edu/iemocap/ after signing a research licence; features of Zhao et al. 2021, 2021.acl-long.203",
    (
        "A/comparE.h5            utterance -> (time, 130)",
        "A/comparE_mean_std.h5   fold -> mean, std",
        "V/denseface.h5          utterance -> (time, 342)",
        "L/bert_large.h5         utterance -> (time, 1024)",
        "target/{1..10}/{trn,val,tst}_label.npy      (N, 4) one-hot",
        "target/{1..10}/{trn,val,tst}_int2name.npy   utterance names in the first column",
    ),
)
BRATS2021 = DataSet(
    "BraTS 2021",
    "https://www.synapse.org/brats, after registration; see the challenge for its licence",
    (
        "BraTS2021_00000/BraTS2021_00000_{flair,t1,t1ce,t2,seg}.nii.gz",
        "or what 'cggm-med init PATH' recognises",
    ),
)
CREMAD = DataSet(
    "CREMA-D",
    "https://github.com/CheyneyComputerScience/CREMA-D; ODbL 1.0",
    (
        "train.csv, test.csv              {clip},{NEU|HAP|SAD|FEA|DIS|ANG}, no header",
        "{clip}.wav                       in the folder itself, in AudioWAV or in audio",
        "Image-01-FPS/{clip}/*.jpg        or in visual/",
    ),
)
KINETICS_SOUNDS = DataSet(
    "Kinetics-Sounds",
    "https://github.com/cvdfoundation/kinetics-dataset; the videos belong to their uploaders",
    (
        "*train*.txt, *test*.txt          {clip},{seconds},{label number} a line",
        "{clip}/*.jpg                     frames",
        "{clip}.npy                       log-spectrogram",
        "or *.json with {clip}.hdf5 and {clip}.npy or {clip}.pkl",
    ),
)
UCF101 = DataSet(
    "UCF101, RGB and optical flow",
    "https://www.crcv.ucf.edu/data/UCF101.php; frames and flow: https://github.com/feichtenhofer/twostreamfusion",
    (
        "classInd.txt, trainlist0{1,2,3}.txt, testlist0{1,2,3}.txt     also in ucfTrainTestlist/ or annotations/",
        "{clip}/frame_000001.jpg                                       or img_00001.jpg; also in frames/, rgb/",
        "u/{clip}/frame000001.jpg, v/{clip}/frame000001.jpg            horizontal and vertical flow",
    ),
)
IEMOCAP_DIALOGUE = DataSet(
    "IEMOCAP as dialogues",
    "https://sail.usc.edu/iemocap/ after signing a research licence; the files come with MMGCN and COSMIC; "
    "pip install 'cggm-med[dialogue]'",
    ("iemocap_features_roberta.pkl, IEMOCAP_features.pkl       both in one folder",),
)
MELD = DataSet(
    "MELD",
    "https://affective-meld.github.io, GPL-3.0; the files come with MMGCN and COSMIC; pip install 'cggm-med[dialogue]'",
    ("meld_features_roberta.pkl, MELD_features_raw1.pkl        both in one folder",),
)
