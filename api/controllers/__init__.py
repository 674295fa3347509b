"""Routes -> answers: each endpoint's steps in order. Knows neither what a field means nor how a body is spelled."""
