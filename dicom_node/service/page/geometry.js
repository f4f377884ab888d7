// From positions in the patient (LPS, mm) to places in the pictures. Pure numbers.

/** The inverse of the (4, 4) matrix that takes (slice, y, x, 1) to LPS, as a function. */
export function toPicture(matrix) {
  const [[a, b, c, s], [d, e, f, t], [g, h, i, u]] = matrix;
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const inverse = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / determinant));
  return ([x, y, z]) => {
    const from = [x - s, y - t, z - u];
    const [slice, down, right] = inverse.map((row) => row[0] * from[0] + row[1] * from[1] + row[2] * from[2]);
    return { slice, y: down, x: right };
  };
}
