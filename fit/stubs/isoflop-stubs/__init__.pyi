"""What `isoflop` exports, with types; a test compares it with `isoflop.__all__`."""

from fit.allocation.scaling_law import ScalingLaw as ScalingLaw
from fit.data.readers import load as load
from fit.data.recording import record as record
from fit.errors import ScalingError as ScalingError
from fit.fitting import FitOptions as FitOptions
from fit.interface import FittedLaw as FittedLaw
from fit.interface import fit as fit
from fit.interface import read_fit as read_fit
from fit.query.answer import predict as predict
from fit.query.answer import query as query
from fit.query.documents import Answer as Answer
from fit.query.documents import Number as Number
from fit.query.documents import Prediction as Prediction
from fit.query.predictions import Predictions as Predictions
from fit.query.predictions import predict_many as predict_many
from fit.query.question import Question as Question
from fit.results import Fit as Fit
